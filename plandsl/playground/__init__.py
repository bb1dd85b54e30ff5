"""What `planc serve` says of a text: diagnostics and estimates as one types, reports and pictures. It reads no file."""
