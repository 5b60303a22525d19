"""Fine-tuning of the student: examples, plan, model, loop and checkpoints. Nothing here knows of Ray."""
