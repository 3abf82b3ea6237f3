//! Cases that take turns, and their figures side by side.

use std::error::Error;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A name and what is measured.
pub type Case<'a> = (&'a str, &'a mut dyn FnMut() -> Result<()>);

/// Runs the cases in turns and prints the best of each, per event and as events per second of processor time; the
/// ratio is to the first case's processor time.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
pub fn table(events: u64, repeats: u64, cases: &mut [Case<'_>]) -> Result<()> {
    let mut best = vec![(f64::MAX, f64::MAX); cases.len()];
    for _ in 0..repeats {
        for ((_, case), best) in cases.iter_mut().zip(&mut best) {
            let (wall, cpu) = (Instant::now(), cpu_seconds()?);
            case()?;
            let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
            *best = (best.0.min(wall), best.1.min(cpu));
        }
    }
    let first = best.first().map_or(0.0, |best| best.1);
    println!("{:42} {:>9} {:>9} {:>14} {:>8}", "", "ns wall", "ns CPU", "events/s CPU", "ratio");
    for ((name, _), (wall, cpu)) in cases.iter().zip(&best) {
        let of = |seconds: f64| seconds * 1e9 / events as f64;
        println!("{name:42} {:9.0} {:9.0} {:14.0} {:8.2}", of(*wall), of(*cpu), events as f64 / cpu, cpu / first);
    }
    Ok(())
}

/// The processor time of this process so far, all threads, in seconds.
pub fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("no process name")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // Fields 14 and 15 of the line, in ticks of 10 ms.
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}
