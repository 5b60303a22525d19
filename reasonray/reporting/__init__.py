"""The report of a run: page, Markdown, figures and the rollout browser. See README.md."""
