"""What a law raises for a plan about which it says nothing."""


class DoesNotApply(Exception):
    """The law says nothing about this plan; the text is the reason."""
