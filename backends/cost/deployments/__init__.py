"""Which programs make a deployment, and what it takes under a load: one sharding or two, a draft, two pools; memory."""
