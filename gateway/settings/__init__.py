"""What an operator says: flags, then `GARDEFOU_*`, then one TOML file, then defaults."""
