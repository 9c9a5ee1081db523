//! The functions that a chat template may call.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::calls::Args;
use super::eval::Interpreter;
use super::value::{Value, ViewOf};
use super::{Budget, Fault, Outcome};

/// The function of that name.
pub(super) fn named<'t>(name: &str) -> Option<Value<'t>> {
    const NAMES: [&str; 8] =
        ["cycler", "dict", "joiner", "lipsum", "namespace", "raise_exception", "range", "strftime_now"];
    NAMES.into_iter().find(|known| *known == name).map(Value::Function)
}

pub(super) fn call<'t>(run: &Interpreter<'t>, name: &str, args: Args<'t>) -> Outcome<Value<'t>> {
    match name {
        "raise_exception" => {
            let [Some(message)] = args.bind(name, ["message"])? else {
                return Err(Fault::new("raise_exception() expects a message"));
            };
            let message = message.text(run.budget)?;
            Err(Fault { message: message.to_string(), line: None, raised: true })
        }
        "strftime_now" => {
            let [Some(format)] = args.bind(name, ["format"])? else {
                return Err(Fault::new("strftime_now() expects a format"));
            };
            strftime(run.now, &format.text(run.budget)?, run.budget)
        }
        "cycler" => match (args.positional.is_empty(), args.named.first()) {
            (false, None) => Value::cycler(args.positional, run.budget),
            _ => Err(Fault::new("cycler() expects at least one item")),
        },
        "joiner" => {
            let [separator] = args.bind(name, ["sep"])?;
            let separator = separator.map_or(Ok(", ".into()), |separator| separator.text(run.budget))?;
            Ok(Value::Joiner(Rc::new((separator, Cell::new(false)))))
        }
        "lipsum" => Err(Fault::new("'lipsum' is not supported: a template gives the same text each time")),
        "range" => range(args, run.budget),
        "dict" => Value::dict(entries(args, run.budget)?, run.budget),
        _ => {
            let named = entries(args, run.budget)?;
            let named = named.into_iter().map(|(name, value)| Ok((name.text(run.budget)?, value)));
            run.new_namespace(named.collect::<Outcome<Vec<(Rc<str>, Value)>>>()?)
        }
    }
}

/// What `dict` and `namespace` are given: a mapping or pairs, then names.
fn entries<'t>(args: Args<'t>, budget: &Budget) -> Outcome<Vec<(Value<'t>, Value<'t>)>> {
    let mut entries = Vec::new();
    for value in args.positional {
        match value {
            Value::Dict(dict) => entries.extend(dict.entries.iter().cloned()),
            other => {
                for pair in other.iterate(budget)? {
                    match pair.as_items() {
                        Some([key, value]) => entries.push((key.clone(), value.clone())),
                        _ => return Err(Fault::new("expected pairs of keys and values")),
                    }
                }
            }
        }
    }
    entries.extend(args.named.into_iter().map(|(name, value)| (Value::Str(name), value)));
    budget.charge(entries.len() * 2 * size_of::<Value>())?;
    Ok(entries)
}

/// Longest range, as in Jinja's sandbox.
const LONGEST_RANGE: i128 = 100_000;

fn range<'t>(args: Args<'t>, budget: &Budget) -> Outcome<Value<'t>> {
    if !args.named.is_empty() {
        return Err(Fault::new("range() takes no keyword arguments"));
    }
    let ints: Option<Vec<i128>> = args.positional.iter().map(Value::as_int).collect();
    let (start, stop, step) = match ints.as_deref() {
        Some([stop]) => (0, *stop, 1),
        Some([start, stop]) => (*start, *stop, 1),
        Some([start, stop, step]) if *step != 0 => (*start, *stop, *step),
        _ => return Err(Fault::new("range() expects one to three integers")),
    };
    let too_big = || Fault::new(format!("a range may have {LONGEST_RANGE} items at most"));
    let span = stop.checked_sub(start).ok_or_else(too_big)?;
    let count = if (span > 0) == (step > 0) { span.unsigned_abs().div_ceil(step.unsigned_abs()) } else { 0 };
    if count > LONGEST_RANGE as u128 {
        return Err(too_big());
    }
    budget.charge(count as usize * size_of::<Value>())?;
    let items = (0..count as i128).map(|i| Value::Int(start + i * step));
    Value::view(ViewOf::Range { start, stop, step }, items.collect(), budget)
}

/// Python's `strftime` of a time in UTC.
fn strftime<'t>(now: SystemTime, format: &str, budget: &Budget) -> Outcome<Value<'t>> {
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"]; // from 1 January 1970
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (weekday, month_name) = (DAYS[(days % 7) as usize], MONTHS[month as usize - 1]);
    let in_year = days - days_to(year) + 1;
    let twelve = (hour + 11) % 12 + 1;
    let week_day = (days + 4) % 7; // 0 is Sunday
    let (iso_year, iso_week) = iso_week(days, year);
    let clock = format!("{hour:02}:{minute:02}:{:02}", second % 60);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        budget.charge(16)?;
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut kind = chars.next();
        let unpadded = kind == Some('-'); // as in glibc
        if unpadded {
            kind = chars.next();
        }
        let two = |n: u64| if unpadded { n.to_string() } else { format!("{n:02}") };
        out.push_str(&match kind {
            Some('Y') => year.to_string(),
            Some('y') => two(year % 100),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('e') => {
                if unpadded {
                    day.to_string()
                } else {
                    format!("{day:2}")
                }
            }
            Some('j') => {
                if unpadded {
                    in_year.to_string()
                } else {
                    format!("{in_year:03}")
                }
            }
            Some('H') => two(hour),
            Some('I') => two(twelve),
            Some('M') => two(minute),
            Some('S') => two(second % 60),
            Some('f') => "000000".to_owned(),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('w') => week_day.to_string(),
            Some('u') => ((week_day + 6) % 7 + 1).to_string(),
            Some('U') => two((in_year + 6 - week_day) / 7),
            Some('W') => two((in_year + 6 - (week_day + 6) % 7) / 7),
            Some('V') => two(iso_week),
            Some('G') => iso_year.to_string(),
            Some('g') => two(iso_year % 100),
            Some('C') => two(year / 100),
            Some('k') if !unpadded => format!("{hour:2}"),
            Some('k') => hour.to_string(),
            Some('l') if !unpadded => format!("{twelve:2}"),
            Some('l') => twelve.to_string(),
            Some('c') => format!("{} {} {day:2} {clock} {year}", &weekday[..3], &month_name[..3]),
            Some('x') => format!("{month:02}/{day:02}/{:02}", year % 100),
            Some('r') => format!("{twelve:02}{} {}", &clock[2..], if hour < 12 { "AM" } else { "PM" }),
            Some('n') => "\n".to_owned(),
            Some('t') => "\t".to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T' | 'X') => clock.clone(),
            Some('R') => format!("{hour:02}:{minute:02}"),
            Some('D') => format!("{month:02}/{day:02}/{:02}", year % 100),
            Some('s') => seconds.to_string(),
            Some('Z' | 'z') => String::new(), // a time without a zone, as Python's `datetime.now()`
            Some('%') => "%".to_owned(),
            Some(other) => return Err(Fault::new(format!("strftime_now() does not know %{other}"))),
            None => "%".to_owned(),
        });
    }
    Ok(Value::str(out))
}

/// The week of a day and the year that it belongs to: the one that its Thursday lies in.
fn iso_week(days: u64, year: u64) -> (u64, u64) {
    let thursday = days + 3 - (days + 3) % 7; // 1 January 1970 was one
    let year = match thursday {
        day if day < days_to(year) => year - 1,
        day if day >= days_to(year + 1) => year + 1,
        _ => year,
    };
    (year, (thursday - days_to(year)) / 7 + 1)
}

/// Year, month and day of so many days after 1 January 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / 366;
    while days_to(year + 1) <= days {
        year += 1;
    }
    let mut left = days - days_to(year);
    let leap = u64::from(days_to(year + 1) - days_to(year) == 366);
    for (month, length) in [31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate() {
        if left < length {
            return (year, month as u64 + 1, left + 1);
        }
        left -= length;
    }
    (year, 12, 31)
}

/// Days from 1 January 1970 to 1 January of a year.
fn days_to(year: u64) -> u64 {
    let before = year - 1;
    365 * (year - 1970) + (before / 4 - 1969 / 4) - (before / 100 - 1969 / 100) + (before / 400 - 1969 / 400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        let check = |days, expected| assert_eq!(civil(days), expected);
        check(0, (1970, 1, 1));
        check(58, (1970, 2, 28));
        check(59, (1970, 3, 1));
        check(789, (1972, 2, 29));
        check(11_016, (2000, 2, 29));
        check(20_777, (2026, 11, 20));
        check(47_541, (2100, 3, 1));
    }
}
