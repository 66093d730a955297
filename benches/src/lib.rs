//! Helpers of the measurements.
