"""The text form of what is told of plans: the reports that people read."""
