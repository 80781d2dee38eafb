//! The entropy device (section 5.4): fills buffers with the host's random bytes.

use std::io;

use vm_memory::Bytes;

use super::{Activation, ActiveQueue, Chain, Device, Health, QueueBroken, pieces};
use crate::memory::GuestMemory;
use crate::reactor::Source;
use std::sync::Arc;

const QUEUE_SIZE: u16 = 64;
/// At most so many bytes a request: a driver that asks for more asks again.
const MOST: usize = 4096;

/// The entropy device.
#[derive(Default)]
pub struct Rng {
    source: Option<Source>,
}

impl Device for Rng {
    fn id(&self) -> u16 {
        4
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, queues, health, reactor, .. } = activation;
        let Some(mut queue) = queues.into_iter().next().flatten() else { return Ok(()) };
        let kick = Arc::clone(&queue.kick);
        self.source = Some(reactor.on_event(kick, move || serve(&mut queue, &memory, &health))?);
        Ok(())
    }

    fn deactivate(&mut self) {
        self.source = None;
    }
}

fn serve(active: &mut ActiveQueue, memory: &Arc<GuestMemory>, health: &Health) {
    if health.broken() {
        return;
    }
    if let Err(error) = serve_some(active, memory) {
        health.give_up(&error);
    }
}

fn serve_some(active: &mut ActiveQueue, memory: &Arc<GuestMemory>) -> Result<(), QueueBroken> {
    for turn in 0..QUEUE_SIZE {
        let Some(chain) = active.next(memory)? else {
            if turn > 0 {
                active.tell(memory);
            }
            return Ok(());
        };
        let head = chain.head_index();
        let written = fill(chain, memory);
        active.give_back(memory, head, written as u32)?;
    }
    active.tell(memory);
    // A driver that adds as fast as we take must not keep the device thread from others: it is called again. The counter
    // cannot be full, it was read before this call.
    let _ = active.kick.write(1);
    Ok(())
}

/// Fills a chain's buffers; gives how many bytes.
fn fill(chain: Chain, memory: &GuestMemory) -> usize {
    let mut bytes = [0; MOST];
    let mut written = 0;
    for descriptor in pieces(chain).filter(|d| d.is_write_only()) {
        let piece = &mut bytes[..(descriptor.len() as usize).min(MOST - written)];
        // Whole, even if a signal cuts the kernel's answer short.
        if getrandom::fill(piece).is_err() || memory.write_slice(piece, descriptor.addr()).is_err() {
            break;
        }
        written += piece.len();
    }
    written
}
