//! What is plugged in and pulled out while the machine runs: slots of the PCI bus and processors, as ACPI devices that can be ejected
//! (ACPI 6.5, 6.3), and the methods that turn the registers of `chipset::plug` into notifications.

use acpi_tables::madt::{EnabledStatus, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, aml};

use super::{append, bytes_of};
use crate::chipset::plug::flag;
use crate::chipset::ports;
use crate::pci;

/// Notifications (ACPI 6.5, table 5.177): look whether the device is there; let go of it.
const CHECK: u8 = 1;
const EJECT: u8 = 3;
/// `_STA` of a device that is there, works and is shown.
const THERE: u8 = 0xf;
/// For ever.
const WAIT: u16 = 0xffff;

fn path(name: &str) -> aml::Path {
    aml::Path::new(name)
}

/// The registers, each 32 bits, behind a lock; and methods for what others do with them.
pub fn append_registers(sdt: &mut Sdt) {
    let (start, size) = (u32::from(ports::PLUG), ports::plug::SIZE as u8);
    let region = aml::OpRegion::new("REGS".into(), aml::OpRegionSpace::SystemIO, &start, &size);
    let names = [*b"SNEW", *b"SLEV", *b"SEJT", *b"CSEL", *b"CFLG", *b"ATGT", *b"AEVT", *b"ASTS"];
    let field = aml::Field::new(
        "REGS".into(),
        aml::FieldAccessType::DWord,
        aml::FieldLockRule::NoLock,
        aml::FieldUpdateRule::WriteAsZeroes,
        names.into_iter().map(|name| aml::FieldEntry::Named(name, 32)).collect(),
    );
    let (lock, acquire, release) = (
        aml::Mutex::new("LOCK".into(), 0),
        aml::Acquire::new("LOCK".into(), WAIT),
        aml::Release::new("LOCK".into()),
    );
    let (arg0, arg1, arg2) = (aml::Arg(0), aml::Arg(1), aml::Arg(2));
    let (eject, target, event, status) = (path("SEJT"), path("ATGT"), path("AEVT"), path("ASTS"));
    let (one, nowhere) = (1u32, aml::ZERO);
    let bit = aml::ShiftLeft::new(&nowhere, &one, &arg0);
    let let_go = aml::Store::new(&eject, &bit);
    let slot = aml::Method::new("SEJ_".into(), 1, true, vec![&acquire, &let_go, &release]);
    let (set_target, set_event, set_status) =
        (aml::Store::new(&target, &arg0), aml::Store::new(&event, &arg1), aml::Store::new(&status, &arg2));
    let answer = aml::Method::new(
        "ANSW".into(),
        3,
        true,
        vec![&acquire, &set_target, &set_event, &set_status, &release],
    );
    let (hid, uid) = (aml::EISAName::new("PNP0A06"), "plug");
    let (hid, uid) = (aml::Name::new("_HID".into(), &hid), aml::Name::new("_UID".into(), &uid));
    append(
        sdt,
        &aml::Device::new("_SB_.PLUG".into(), vec![&hid, &uid, &region, &field, &lock, &slot, &answer]),
    );
}

/// A device for each slot but the bridge's, and the method that tells which have changed.
pub fn append_slots(sdt: &mut Sdt) {
    for slot in 1..pci::SLOTS as u32 {
        append(sdt, &slot_device(slot));
    }
    let (new, leave) = (aml::Local(0), aml::Local(1));
    let (new_register, leave_register) = (path("\\_SB_.PLUG.SNEW"), path("\\_SB_.PLUG.SLEV"));
    let mut body = bytes_of(&aml::Store::new(&new, &new_register));
    body.extend(bytes_of(&aml::Store::new(&leave, &leave_register)));
    for slot in 1..pci::SLOTS {
        let (name, bit) = (path(&slot_name(slot as u32)), 1u32 << slot);
        for (register, what) in [(&new, CHECK), (&leave, EJECT)] {
            let set = aml::And::new(&aml::ZERO, register, &bit);
            let notify = aml::Notify::new(&name, &what);
            body.extend(bytes_of(&aml::If::new(&set, vec![&notify])));
        }
    }
    let body = Raw(body);
    append(sdt, &aml::Method::new("_SB_.PCI0.SCAN".into(), 0, true, vec![&body]));
}

/// AML that is bytes already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn slot_name(slot: u32) -> String {
    format!("\\_SB_.PCI0.S{slot:02X}_")
}

fn slot_device(slot: u32) -> impl Aml {
    let (address, number) = (slot << 16, slot);
    let mut body = bytes_of(&aml::Name::new("_ADR".into(), &address));
    body.extend(bytes_of(&aml::Name::new("_SUN".into(), &number)));
    let let_go = aml::MethodCall::new(path("\\_SB_.PLUG.SEJ_"), vec![&slot]);
    body.extend(bytes_of(&aml::Method::new("_EJ0".into(), 1, true, vec![&let_go])));
    body.extend(answers(slot));
    let mut bytes = Vec::new();
    aml::Device::new(slot_name(slot)[1..].into(), vec![&Raw(body)]).to_aml_bytes(&mut bytes);
    Raw(bytes)
}

/// `_OST`: what came of a notification.
fn answers(target: u32) -> Vec<u8> {
    let (arg0, arg1) = (aml::Arg(0), aml::Arg(1));
    let answer = aml::MethodCall::new(path("\\_SB_.PLUG.ANSW"), vec![&target, &arg0, &arg1]);
    bytes_of(&aml::Method::new("_OST".into(), 3, true, vec![&answer]))
}

/// A device for each processor that there can be, and the method that tells which have changed.
pub fn append_processors(sdt: &mut Sdt, most: u32) {
    let (hid, cid) = (aml::Name::new("_HID".into(), &"ACPI0010"), aml::EISAName::new("PNP0A05"));
    let cid = aml::Name::new("_CID".into(), &cid);
    append(
        sdt,
        &aml::Device::new(
            "_SB_.CPUS".into(),
            vec![&hid, &cid, &status(), &let_go(), &tell(most), &scan(most)],
        ),
    );
    for number in 0..most {
        append(sdt, &processor(number));
    }
}

fn processor_name(number: u32) -> String {
    format!("\\_SB_.CPUS.C{number:03X}")
}

fn processor(number: u32) -> impl Aml {
    let mut body = bytes_of(&aml::Name::new("_HID".into(), &"ACPI0007"));
    body.extend(bytes_of(&aml::Name::new("_UID".into(), &number)));
    let is_there = aml::MethodCall::new(path("\\_SB_.CPUS.CSTA"), vec![&number]);
    body.extend(bytes_of(&aml::Method::new("_STA".into(), 0, true, vec![&aml::Return::new(&is_there)])));
    let entry = bytes_of(&ProcessorLocalApic::new(number as u8, number as u8, EnabledStatus::Enabled));
    body.extend(bytes_of(&aml::Name::new("_MAT".into(), &aml::BufferData::new(entry))));
    // The first one starts the others, and stays.
    if number > 0 {
        let eject = aml::MethodCall::new(path("\\_SB_.CPUS.CEJ_"), vec![&number]);
        body.extend(bytes_of(&aml::Method::new("_EJ0".into(), 1, true, vec![&eject])));
        body.extend(answers(ports::plug::PROCESSOR + number));
    }
    let mut bytes = Vec::new();
    aml::Device::new(processor_name(number)[1..].into(), vec![&Raw(body)]).to_aml_bytes(&mut bytes);
    Raw(bytes)
}

/// `CSTA(n)`: the status of a processor.
fn status() -> impl Aml {
    let (select, flags, lock) = (path("\\_SB_.PLUG.CSEL"), path("\\_SB_.PLUG.CFLG"), "\\_SB_.PLUG.LOCK");
    let (acquire, release) = (aml::Acquire::new(lock.into(), WAIT), aml::Release::new(lock.into()));
    let (arg, result) = (aml::Arg(0), aml::Local(0));
    let choose = aml::Store::new(&select, &arg);
    let none = aml::Store::new(&result, &aml::ZERO);
    let there = u32::from(flag::THERE);
    let set = aml::And::new(&aml::ZERO, &flags, &there);
    let yes = aml::Store::new(&result, &THERE);
    let if_there = aml::If::new(&set, vec![&yes]);
    let give = aml::Return::new(&result);
    Raw(bytes_of(&aml::Method::new(
        "CSTA".into(),
        1,
        true,
        vec![&acquire, &choose, &none, &if_there, &release, &give],
    )))
}

/// `CEJ_(n)`: the guest has let go of a processor.
fn let_go() -> impl Aml {
    let (select, flags, lock) = (path("\\_SB_.PLUG.CSEL"), path("\\_SB_.PLUG.CFLG"), "\\_SB_.PLUG.LOCK");
    let (acquire, release) = (aml::Acquire::new(lock.into(), WAIT), aml::Release::new(lock.into()));
    let (arg, gone) = (aml::Arg(0), u32::from(flag::GONE));
    let choose = aml::Store::new(&select, &arg);
    let tell = aml::Store::new(&flags, &gone);
    Raw(bytes_of(&aml::Method::new("CEJ_".into(), 1, true, vec![&acquire, &choose, &tell, &release])))
}

/// `TELL(n, what)`: a notification to a processor.
fn tell(most: u32) -> impl Aml {
    let (number, what) = (aml::Arg(0), aml::Arg(1));
    let mut body = Vec::new();
    for processor in 0..most {
        let name = path(&processor_name(processor));
        let notify = aml::Notify::new(&name, &what);
        body.extend(bytes_of(&aml::If::new(&aml::Equal::new(&number, &processor), vec![&notify])));
    }
    Raw(bytes_of(&aml::Method::new("TELL".into(), 2, true, vec![&Raw(body)])))
}

/// `SCAN()`: looks at all processors and tells those that have changed.
fn scan(most: u32) -> impl Aml {
    let (select, flags, lock) = (path("\\_SB_.PLUG.CSEL"), path("\\_SB_.PLUG.CFLG"), "\\_SB_.PLUG.LOCK");
    let (acquire, release) = (aml::Acquire::new(lock.into(), WAIT), aml::Release::new(lock.into()));
    let (number, seen) = (aml::Local(0), aml::Local(1));
    let begin = aml::Store::new(&number, &aml::ZERO);
    let mut body = bytes_of(&acquire);
    body.extend(bytes_of(&aml::Store::new(&select, &number)));
    body.extend(bytes_of(&aml::Store::new(&seen, &flags)));
    let changed = u32::from(flag::NEW | flag::LEAVE);
    body.extend(bytes_of(&aml::Store::new(&flags, &changed)));
    body.extend(bytes_of(&release));
    for (bit, what) in [(flag::NEW, CHECK), (flag::LEAVE, EJECT)] {
        let (bit, what) = (u32::from(bit), what);
        let set = aml::And::new(&aml::ZERO, &seen, &bit);
        let tell = aml::MethodCall::new(path("\\_SB_.CPUS.TELL"), vec![&number, &what]);
        body.extend(bytes_of(&aml::If::new(&set, vec![&tell])));
    }
    body.extend(bytes_of(&aml::Add::new(&number, &number, &aml::ONE)));
    let more = aml::LessThan::new(&number, &most);
    let body = Raw(body);
    let all = aml::While::new(&more, vec![&body]);
    Raw(bytes_of(&aml::Method::new("SCAN".into(), 0, true, vec![&begin, &all])))
}
