//! ACPI tables (ACPI 6.5): hardware-reduced, so that no legacy interrupt controller or timer is needed; what can be plugged
//! in while the machine runs has its place in the namespace already.

mod plug;

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use vm_memory::{Bytes, GuestAddress};

use super::BootError;
use crate::chipset::{generation, pm_timer, ports};
use crate::memory::{GuestMemory, Layout, map};

/// Where the tables lie, the root pointer first.
pub const TABLES: u64 = 0xe_0000;
/// End of the room for them; the page of the generation id follows.
pub const TABLES_END: u64 = generation::PAGE;

/// IAPC_BOOT_ARCH (ACPI 6.5, 5.2.9.3): there is no VGA; that there is no 8042 either is said by not setting its bit.
const NO_VGA: u16 = 1 << 2;

const OEM: [u8; 6] = *b"TESSRA";
const TABLE: [u8; 8] = *b"TESSERA ";

/// The processors of a machine: at most 254, because their APIC ids have eight bits.
#[derive(Clone, Copy, Debug)]
pub struct Processors<'a> {
    /// Which are there.
    pub there: &'a [u32],
    /// How many there can be.
    pub most: u32,
}

/// Writes all tables for a machine of these processors.
///
/// # Errors
/// If they do not fit or memory cannot be written.
pub fn write(memory: &GuestMemory, layout: &Layout, processors: Processors<'_>) -> Result<(), BootError> {
    let mut next = TABLES + 64;
    let mut place = |bytes: &[u8]| -> Result<u64, BootError> {
        let at = next;
        next = (at + bytes.len() as u64).next_multiple_of(16);
        if next > TABLES_END {
            return Err(BootError::TooLarge {
                what: "ACPI",
                size: next - TABLES,
                memory: TABLES_END - TABLES,
            });
        }
        memory.write_slice(bytes, GuestAddress(at))?;
        Ok(at)
    };
    let dsdt = place(&bytes_of(&dsdt(layout, processors.most)))?;
    let fadt = place(&bytes_of(&fadt(dsdt)))?;
    let madt = place(&bytes_of(&madt(processors)))?;
    let mut mcfg = MCFG::new(OEM, TABLE, 1);
    mcfg.add_ecam(map::ECAM, 0, 0, 255);
    let mcfg = place(&bytes_of(&mcfg))?;
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = place(&bytes_of(&xsdt))?;
    memory.write_slice(&bytes_of(&Rsdp::new(OEM, xsdt)), GuestAddress(TABLES))?;
    Ok(())
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(number: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(number))
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut builder = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt);
    builder.iapc_boot_arch = NO_VGA.into();
    builder.century = ports::RTC_CENTURY;
    builder.pm_tmr_len = pm_timer::SIZE as u8;
    builder.pm_tmr_blk = u32::from(ports::PM_TIMER).into();
    builder.x_pm_tmr_blk =
        GAS::new(AddressSpace::SystemIo, 32, 0, AccessSize::DwordAccess, ports::PM_TIMER.into());
    builder.reset_reg = port(ports::RESET);
    builder.reset_value = ports::RESET_VALUE;
    builder.sleep_control_reg = port(ports::SLEEP_CONTROL);
    builder.sleep_status_reg = port(ports::SLEEP_STATUS);
    builder.finalize()
}

fn madt(processors: Processors<'_>) -> MADT {
    let mut madt = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(map::LAPIC as u32));
    for id in 0..processors.most {
        let there = processors.there.contains(&id);
        let status = if there { EnabledStatus::Enabled } else { EnabledStatus::DisabledOnlineCapable };
        madt.add_structure(ProcessorLocalApic::new(id as u8, id as u8, status));
    }
    madt.add_structure(IoApic::new(0, map::IOAPIC as u32, 0));
    madt
}

fn dsdt(layout: &Layout, most: u32) -> Sdt {
    let mut sdt = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, 1);
    let s5 = aml::Package::new(vec![&ports::SLEEP_TYPE_OFF, &0u8, &0u8, &0u8]);
    append(&mut sdt, &aml::Name::new("_S5_".into(), &s5));
    plug::append_registers(&mut sdt);
    append_pci(&mut sdt, layout);
    plug::append_slots(&mut sdt);
    append_legacy(&mut sdt);
    append_events(&mut sdt);
    append_panic(&mut sdt);
    plug::append_processors(&mut sdt, most);
    sdt
}

fn append(sdt: &mut Sdt, piece: &dyn Aml) {
    sdt.append_slice(&bytes_of(piece));
}

/// The host bridge with its windows, and the configuration space as a reserved resource.
fn append_pci(sdt: &mut Sdt, layout: &Layout) {
    let (low, high) = (layout.low_bars(), layout.high_bars());
    let bus = aml::AddressSpace::new_bus_number(0u16, 255u16);
    let config = aml::IO::new(0xcf8, 0xcf8, 1, 8);
    let ports_low = aml::AddressSpace::new_io(0u16, 0xcf7, None);
    let ports_high = aml::AddressSpace::new_io(0xd00u16, 0xffff, None);
    let window32 = aml::AddressSpace::new_memory(
        aml::AddressSpaceCacheable::NotCacheable,
        true,
        low.start as u32,
        (low.start + low.size - 1) as u32,
        None,
    );
    let window64 = aml::AddressSpace::new_memory(
        aml::AddressSpaceCacheable::NotCacheable,
        true,
        high.start,
        high.start + high.size - 1,
        None,
    );
    let resources =
        aml::ResourceTemplate::new(vec![&bus, &config, &ports_low, &ports_high, &window32, &window64]);
    append(
        sdt,
        &aml::Device::new(
            "_SB_.PCI0".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A08")),
                &aml::Name::new("_CID".into(), &aml::EISAName::new("PNP0A03")),
                &aml::Name::new("_SEG".into(), &aml::ZERO),
                &aml::Name::new("_UID".into(), &aml::ZERO),
                &aml::Name::new("_CCA".into(), &aml::ONE),
                &aml::Name::new("_CRS".into(), &resources),
            ],
        ),
    );
    let space = aml::Memory32Fixed::new(true, map::ECAM as u32, map::ECAM_SIZE as u32);
    append(
        sdt,
        &aml::Device::new(
            "_SB_.MBRD".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C02")),
                &aml::Name::new("_UID".into(), &aml::ZERO),
                &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&space])),
            ],
        ),
    );
}

/// The serial port and the clock.
fn append_legacy(sdt: &mut Sdt) {
    let interrupt = aml::Interrupt::new(true, true, false, false, u32::from(ports::COM1_PIN));
    let io = aml::IO::new(ports::COM1, ports::COM1, 0, 8);
    append(
        sdt,
        &aml::Device::new(
            "_SB_.COM1".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
                &aml::Name::new("_UID".into(), &aml::ZERO),
                &aml::Name::new("_DDN".into(), &"COM1"),
                &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&interrupt, &io])),
            ],
        ),
    );
    let interrupt = aml::Interrupt::new(true, true, false, false, u32::from(ports::RTC_PIN));
    let io = aml::IO::new(ports::RTC, ports::RTC, 0, 2);
    append(
        sdt,
        &aml::Device::new(
            "_SB_.RTC_".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0B00")),
                &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&interrupt, &io])),
            ],
        ),
    );
}

/// What has events (the power button, the generation id, slots and processors), and the generic event device: its method reads the event
/// register, which tells and takes away what happened.
fn append_events(sdt: &mut Sdt) {
    append(
        sdt,
        &aml::Device::new(
            "_SB_.PWRB".into(),
            vec![&aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C0C"))],
        ),
    );
    let id = generation::PAGE + generation::OFFSET;
    append(
        sdt,
        &aml::Device::new(
            "_SB_.VGEN".into(),
            vec![
                &aml::Name::new("_HID".into(), &"QEMUVGID"),
                &aml::Name::new("_CID".into(), &"VM_Gen_Counter"),
                &aml::Name::new("_DDN".into(), &"VM_Gen_Counter"),
                &aml::Name::new("ADDR".into(), &aml::Package::new(vec![&(id as u32), &((id >> 32) as u32)])),
            ],
        ),
    );
    let interrupt = aml::Interrupt::new(true, true, false, false, u32::from(ports::EVENT_PIN));
    let register = u32::from(ports::EVENT);
    let region = aml::OpRegion::new("EVTR".into(), aml::OpRegionSpace::SystemIO, &register, &1u8);
    let field = aml::Field::new(
        "EVTR".into(),
        aml::FieldAccessType::Byte,
        aml::FieldLockRule::NoLock,
        aml::FieldUpdateRule::WriteAsZeroes,
        vec![aml::FieldEntry::Named(*b"EVTS", 8)],
    );
    append(
        sdt,
        &aml::Device::new(
            "_SB_.GED_".into(),
            vec![
                &aml::Name::new("_HID".into(), &"ACPI0013"),
                &aml::Name::new("_UID".into(), &aml::ZERO),
                &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&interrupt])),
                &region,
                &field,
                &aml::Method::new(
                    "_EVT".into(),
                    1,
                    true,
                    vec![
                        &aml::Store::new(&aml::Local(0), &aml::Path::new("EVTS")),
                        &aml::And::new(&aml::Local(1), &aml::Local(0), &ports::EVENT_POWER_BUTTON),
                        &aml::If::new(
                            &aml::Equal::new(&aml::Local(1), &ports::EVENT_POWER_BUTTON),
                            vec![&aml::Notify::new(&aml::Path::new("\\_SB_.PWRB"), &0x80u8)],
                        ),
                        &aml::And::new(&aml::Local(1), &aml::Local(0), &ports::EVENT_GENERATION),
                        &aml::If::new(
                            &aml::Equal::new(&aml::Local(1), &ports::EVENT_GENERATION),
                            vec![&aml::Notify::new(&aml::Path::new("\\_SB_.VGEN"), &0x80u8)],
                        ),
                        &aml::And::new(&aml::Local(1), &aml::Local(0), &ports::EVENT_SLOTS),
                        &aml::If::new(
                            &aml::Equal::new(&aml::Local(1), &ports::EVENT_SLOTS),
                            vec![&aml::MethodCall::new("\\_SB_.PCI0.SCAN".into(), vec![])],
                        ),
                        &aml::And::new(&aml::Local(1), &aml::Local(0), &ports::EVENT_PROCESSORS),
                        &aml::If::new(
                            &aml::Equal::new(&aml::Local(1), &ports::EVENT_PROCESSORS),
                            vec![&aml::MethodCall::new("\\_SB_.CPUS.SCAN".into(), vec![])],
                        ),
                    ],
                ),
            ],
        ),
    );
}

/// The port that hears of guest panics, in the place where QEMU's drivers look for it.
fn append_panic(sdt: &mut Sdt) {
    // Present, decoding and functioning; not shown to people.
    let status = 0xbu8;
    let io = aml::IO::new(ports::PVPANIC, ports::PVPANIC, 1, 1);
    append(
        sdt,
        &aml::Device::new(
            "_SB_.PEVT".into(),
            vec![
                &aml::Name::new("_HID".into(), &"QEMU0001"),
                &aml::Name::new("_STA".into(), &status),
                &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&io])),
            ],
        ),
    );
}
