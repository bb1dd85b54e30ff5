"""Results of benchmarks of servers beside what a plan predicts for the same loads."""
