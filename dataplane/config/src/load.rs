//! Reading, overriding by the environment, and validating a configuration.
