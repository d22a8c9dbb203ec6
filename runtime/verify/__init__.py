"""Decide which graph may run on which backend, and verify what really ran: layer precisions and values.

Layer precision from the backend's account, values from a simulation.
"""
