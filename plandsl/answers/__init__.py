"""Answers about plans: estimates, explanations and differences, each as values, as JSON and as text."""
