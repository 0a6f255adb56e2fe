"""Values, rules and errors of the field. No input or output, no clock, no third party.

Everything here is a frozen value or a pure function, so that every rule can be read and tested alone:
time arrives as an argument (UTC milliseconds), and bytes arrive as bytes.
"""
