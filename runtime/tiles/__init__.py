"""Run one picture of any size through a network in bounded memory: the plan, its tiles, the bands of rows that come out."""
