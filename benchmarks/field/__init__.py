"""Questions that people who deploy asked in public, what they saw, and what plandsl answers."""
