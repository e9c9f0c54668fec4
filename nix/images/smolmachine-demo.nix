{ smolmachine }:
smolmachine { name = "demo"; }
