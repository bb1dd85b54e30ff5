"""How far predictions are from measurements: `planc accuracy`."""
