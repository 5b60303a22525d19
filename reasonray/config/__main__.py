"""Brings the reference of knobs in README.md up to date: `python -m reasonray.config`."""

from reasonray.config.reference import write_readme

write_readme()
