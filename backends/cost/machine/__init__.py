"""What hardware gives: its rates, its links, its tables of measurements."""
