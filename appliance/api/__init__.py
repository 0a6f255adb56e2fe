"""HTTP for programs: admin API, uploads, downloads, peer API, health and metrics.

Every handler derives from `base.BaseHandler`, which is closed to anonymous callers unless it says `open = True`.
Handlers parse, call one service and show the result (`views`); errors are turned into answers in one place (`errors`).
"""
