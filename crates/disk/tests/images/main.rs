//! Disk images: what is written is read back, by us and by QEMU's tools; what is no image is refused.

mod damage;
mod damaged;
mod guest;
mod handed;
mod held;
mod layers;
mod overlay;
mod pull;
mod qcow2;
mod random;
mod raw;
mod speed;
mod switch;
mod tools;
