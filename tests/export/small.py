"""What the tests of small models share."""

NAMES = ["Kätzchen", "犬", '🚗 "x"']
SIZE = (64, 96)
