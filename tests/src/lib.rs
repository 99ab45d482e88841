//! Test harness.

<<<<<<< HEAD
pub mod fuzz;
=======
pub mod lab;
>>>>>>> xdp
