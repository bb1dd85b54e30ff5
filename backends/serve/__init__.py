"""The web server of `planc serve`: it bounds and checks requests, and lets worker processes answer them.

It knows nothing of plans. What answers is a function that it is given, and that runs in the workers alone.
"""
