//! Privacy accounting: events, composition, calibration
