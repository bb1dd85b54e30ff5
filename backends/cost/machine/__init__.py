"""The hardware as the cost model sees it: rates, links, tables of measurements."""
