"""The commands of `planc`, a module each: it calls the driver, prints the result, and gives an exit status."""
