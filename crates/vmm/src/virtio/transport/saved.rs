//! A device's registers as data, out and in.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::super::state::{DeviceState, QueueState, RestoreError, TransportState};
use super::{State, Transport, status};

impl Transport {
    /// What is saved. Only while the machine is paused.
    pub fn save(&self) -> TransportState {
        let state = self.lock();
        let queue = |setup: &super::QueueSetup| QueueState {
            size: setup.size,
            enabled: setup.enabled,
            descriptors: setup.descriptors,
            available: setup.available,
            used: setup.used,
            vector: setup.vector.load(Ordering::SeqCst),
            next_available: setup.progress.next_available.load(Ordering::SeqCst),
            next_used: setup.progress.next_used.load(Ordering::SeqCst),
        };
        // One that has given up serves nothing.
        let active = state.active && !self.broken.load(Ordering::SeqCst);
        TransportState {
            id: state.device.id(),
            status: state.status,
            active,
            broken: self.broken.load(Ordering::SeqCst),
            device_feature_select: state.device_feature_select,
            driver_feature_select: state.driver_feature_select,
            driver_features: state.driver_features,
            queue_select: state.queue_select,
            config_vector: self.config_vector.load(Ordering::SeqCst),
            generation: self.generation.load(Ordering::SeqCst),
            isr: self.isr.load(Ordering::SeqCst),
            window: *self.window_at.lock().unwrap_or_else(PoisonError::into_inner),
            queues: state.queues.iter().map(queue).collect(),
            device: state.device.save(active),
        }
    }

    /// Puts back what was saved, of a machine that has not run yet and is paused. The function's own state comes first: a device that
    /// starts may interrupt.
    ///
    /// # Errors
    /// If this device cannot go on as the saved one. The machine is of no use then.
    pub fn restore(&self, saved: &TransportState) -> Result<(), RestoreError> {
        let mut state = self.lock();
        fits(&state, saved)?;
        let missing = saved.driver_features & !Self::offered(&state);
        // What the driver has written and nobody has accepted does not matter.
        if missing != 0 && saved.status & status::FEATURES_OK != 0 {
            return Err(RestoreError::Features { missing });
        }
        state.status = saved.status;
        state.device_feature_select = saved.device_feature_select;
        state.driver_feature_select = saved.driver_feature_select;
        state.driver_features = saved.driver_features;
        state.queue_select = saved.queue_select;
        for (setup, queue) in state.queues.iter_mut().zip(&saved.queues) {
            (setup.size, setup.enabled) = (queue.size, queue.enabled);
            (setup.descriptors, setup.available, setup.used) =
                (queue.descriptors, queue.available, queue.used);
            setup.vector.store(self.known_vector(queue.vector.into()), Ordering::SeqCst);
            setup.progress.go_to(queue.next_available, queue.next_used);
        }
        self.config_vector.store(self.known_vector(saved.config_vector.into()), Ordering::SeqCst);
        self.generation.store(saved.generation, Ordering::SeqCst);
        self.isr.store(saved.isr, Ordering::SeqCst);
        *self.window_at.lock().unwrap_or_else(PoisonError::into_inner) = saved.window;
        self.broken.store(saved.broken, Ordering::SeqCst);
        if saved.device != DeviceState::Plain {
            state.device.restore(&saved.device)?;
        }
        if !saved.active {
            return Ok(());
        }
        self.activate(&mut state);
        if !state.active {
            return Err(RestoreError::Start("a queue does not lie in memory, or the host refuses".into()));
        }
        // A kick that came before the device was saved may have been on its way; one too many does no harm.
        for setup in state.queues.iter().filter(|setup| setup.enabled) {
            // A counter that is full wakes as well.
            let _ = setup.kick.write(1);
        }
        Ok(())
    }
}

/// Whether `saved` is of a device like this one.
fn fits(state: &State, saved: &TransportState) -> Result<(), RestoreError> {
    if saved.id != state.device.id() {
        return Err(RestoreError::Kind);
    }
    if saved.queues.len() != state.queues.len() {
        return Err(RestoreError::Queues { saved: saved.queues.len(), here: state.queues.len() });
    }
    for (number, (queue, setup)) in saved.queues.iter().zip(&state.queues).enumerate() {
        if !queue.size.is_power_of_two() || queue.size > setup.most {
            return Err(RestoreError::Queue { number, size: queue.size });
        }
    }
    Ok(())
}
