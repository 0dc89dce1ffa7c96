# Each target is a script of the same name in scripts/. ARGS reach `gardefou serve` and pytest.
.PHONY: install serve test check
install serve test check:
	@scripts/$@ $(ARGS)
