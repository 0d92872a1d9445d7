"""How a scan is read on the screen: directions, grey-value window, three planes, surfaces."""
