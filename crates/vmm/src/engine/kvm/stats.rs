//! What KVM counts of a virtual processor, for whoever looks after this process: a processor halts within KVM_RUN, out of our sight, and KVM alone knows for how long. The file is held open and never read here: the daemon
//! finds it among the process's by the name that the kernel gives it, and reads it when it likes (Linux, Documentation/virt/kvm/api.rst, 4.133 KVM_GET_STATS_FD).

use std::fs::File;
use std::os::fd::FromRawFd;

use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// A file of what KVM counts of the processor, if it gives one: it does from Linux 5.15 on.
pub fn of(vcpu: &VcpuFd) -> Option<File> {
    // SAFETY: the call has no argument.
    let descriptor = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
    // SAFETY: the kernel has just made the descriptor, and nobody else knows of it.
    (descriptor >= 0).then(|| unsafe { File::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_kernel_names_the_file_after_the_processor() {
        let Ok(kvm) = kvm_ioctls::Kvm::new() else {
            eprintln!("skipped: there is no /dev/kvm");
            return;
        };
        let vm = kvm.create_vm().unwrap();
        let vcpu = vm.create_vcpu(3).unwrap();
        let Some(file) = of(&vcpu) else {
            eprintln!("skipped: this KVM counts nothing");
            return;
        };
        let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert_eq!(name.to_str(), Some("anon_inode:kvm-vcpu-stats:3"));
    }
}
