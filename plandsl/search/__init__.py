"""Search: what varies, what must hold, what is wanted; evaluated by arrays, and the reason for the answer."""
