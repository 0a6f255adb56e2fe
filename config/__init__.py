"""Typed settings of a node and the generated default file. Imports nothing of the appliance."""
