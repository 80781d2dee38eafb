//! The architectural state of a processor as data: what is saved, restored, moved and compared in tests.

use serde::{Deserialize, Serialize};

/// A segment register with its hidden part (Intel SDM vol. 3, 3.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes (granularity already applied): the last valid offset.
    pub limit: u32,
    /// Access rights as in descriptor bytes 5 and 6: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15.
    pub rights: u16,
    /// The selector is null or the segment otherwise unusable.
    pub unusable: bool,
}

impl Segment {
    /// Type bits 3:0.
    pub const fn kind(&self) -> u8 {
        (self.rights & 0xf) as u8
    }
    /// Descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        (self.rights >> 5 & 3) as u8
    }
    /// The L bit: 64-bit code.
    pub const fn long(&self) -> bool {
        self.rights & 1 << 13 != 0
    }
    /// The D/B bit: 32-bit default size.
    pub const fn big(&self) -> bool {
        self.rights & 1 << 14 != 0
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRegister {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// The x87 unit. Registers are in physical order (R0 … R7), not relative to TOP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct X87 {
    /// R0 … R7 as 80-bit values in the low ten bytes.
    pub regs: [[u8; 10]; 8],
    /// FCW.
    pub control: u16,
    /// FSW, TOP in bits 13:11.
    pub status: u16,
    /// Abridged tag word as FXSAVE has it: bit n set when Rn is not empty.
    pub tags: u8,
    /// Last instruction's opcode, 11 bits.
    pub opcode: u16,
    /// Last instruction's address.
    pub instruction: u64,
    /// Last operand's address.
    pub operand: u64,
}

impl Default for X87 {
    fn default() -> Self {
        Self { regs: [[0; 10]; 8], control: 0x37f, status: 0, tags: 0, opcode: 0, instruction: 0, operand: 0 }
    }
}

/// Model-specific registers that are state and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub tsc_aux: u64,
    /// What software has added to the TSC (Intel SDM vol. 3, 18.17.3).
    #[serde(default)]
    pub tsc_adjust: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [u64; 16],
    pub kvm_system_time: u64,
    pub kvm_wall_clock: u64,
    #[serde(default)]
    pub kvm_steal_time: u64,
    pub spec_ctrl: u64,
    pub debugctl: u64,
}

/// The local APIC's registers (Intel SDM vol. 3, chapter 11).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApicState {
    /// IA32_APIC_BASE: base address, enable, x2APIC, bootstrap processor.
    pub base: u64,
    /// The register page, one 32-bit register each 16 bytes (index = offset >> 4), as KVM_GET_LAPIC has it. Empty: the
    /// APIC is as after power-on.
    pub registers: Vec<u32>,
    /// When the one-shot or periodic timer was started, guest nanoseconds ([`crate::Clock`]); 0 when it is not running.
    pub timer_start: u64,
    /// When the timer next fires, guest nanoseconds; 0 when it is not running.
    pub timer_deadline: u64,
    /// IA32_TSC_DEADLINE; 0 when disarmed.
    pub tsc_deadline: u64,
}

/// What a processor is doing (KVM's multiprocessing states).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// Executing instructions.
    #[default]
    Running,
    /// In HLT until an interrupt.
    Halted,
    /// An application processor before its first INIT.
    Uninitialized,
    /// After INIT, waiting for a startup IPI.
    WaitForSipi,
}

/// Numbers of 128 bits as two of 64, the low half first: formats for saved state have no longer ones.
mod halves {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(numbers: &[u128; 16], serializer: S) -> Result<S::Ok, S::Error> {
        numbers.map(|number| [number as u64, (number >> 64) as u64]).serialize(serializer)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<[u128; 16], D::Error> {
        let halves = <[[u64; 2]; 16]>::deserialize(deserializer)?;
        Ok(halves.map(|[low, high]| u128::from(low) | u128::from(high) << 64))
    }
}

/// The whole processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CpuState {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 … R15.
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// ES CS SS DS FS GS.
    pub segments: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableRegister,
    pub idtr: TableRegister,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    /// DR0 … DR7 (4 and 5 unused).
    pub dr: [u64; 8],
    /// XMM0 … XMM15.
    #[serde(with = "halves")]
    pub xmm: [u128; 16],
    pub mxcsr: u32,
    pub x87: X87,
    pub msrs: Msrs,
    pub apic: ApicState,
    pub activity: Activity,
    /// Interrupts are held off for one instruction (after STI or a load of SS).
    pub shadow: bool,
    /// An NMI is being handled: further ones wait for IRET.
    pub nmi_blocked: bool,
    /// An NMI waits to be delivered.
    pub nmi_pending: bool,
    /// What is added to the machine's TSC ([`crate::Clock::tsc`]) to give this processor's.
    pub tsc_offset: u64,
}
