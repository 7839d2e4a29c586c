"""The order of the stages of a build, how a build runs them, and how its result is published."""
