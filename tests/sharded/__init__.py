"""Programs that tests/test_sharding.py runs on other numbers of devices."""
