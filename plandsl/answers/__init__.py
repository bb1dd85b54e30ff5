"""What is told of plans: an estimate, an explanation, a difference; each as values, as JSON and as text."""
