"""The loop around training steps: epochs, schedules, early stopping, progress."""
