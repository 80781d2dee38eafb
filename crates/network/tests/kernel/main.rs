//! Networks in real kernels' namespaces, with guests that are namespaces behind real taps. They need root, and are skipped
//! without it.

mod apart;
mod cards;
mod frames;
mod repair;
mod services;
mod speed;
mod world;
