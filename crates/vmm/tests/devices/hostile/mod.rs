//! Guests that mean no good: whatever they do, their machine neither panics nor hangs, and after a reset it works.

mod idle;
mod operations;
mod queues;
mod random;
mod registers;
mod world;
