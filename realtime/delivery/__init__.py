"""The policies of delivery, pure: who may, how much, what comes next. Time comes in as an argument.

Nothing here knows sockets, rows or processes; the hub and the shells ask, and act on the answers.
"""
