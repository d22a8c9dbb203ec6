"""Which graph runs on which backend, and what really ran there: layer precision from the backend's account, values from a simulation."""
