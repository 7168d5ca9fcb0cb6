"""The one exception for what a user can put right."""


class UserError(ValueError):
    """Something a user can put right: bad data, a wrong flag, a checkpoint that does not fit.

    Its message is one line that says what was expected, what was found, where, and what to do. `train.py`
    and `eval.py` print it to stderr without a traceback and exit with status 2.
    """
