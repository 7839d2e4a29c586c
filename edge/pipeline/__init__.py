"""The stages of a build in their order, the engine that runs them, and how a result is published."""
