"""Where the graph meets its surroundings: artifact store, recipe catalog, launchers, tracker. Only here is the
environment read.
"""
