"""What is told of a plan: the estimate and its lines, terms, shares, slopes, differences."""
