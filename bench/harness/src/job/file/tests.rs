use super::*;

const SMALLEST: &str = "[[target]]\nname = \"a\"\nfile = \"x\"\n[[workload]]\nkind = \"write\"\n";

fn refused(text: &str) -> String {
    let error = Job::parse(text).expect_err("it is wrong");
    format!("{error:#}")
}

#[test]
fn the_example_is_a_job() {
    let text = include_str!("../../../../job.example.toml");
    let job = Job::parse(text).expect("the example is right");
    assert!(job.targets.len() >= 2 && job.loads().expect("right").len() >= 4);
}

#[test]
fn what_is_not_given_is_usual() {
    let job = Job::parse(SMALLEST).expect("enough");
    assert_eq!((job.run.seconds, job.run.repeats), (10, 5));
    assert!(!job.targets[0].overwrite);
    let loads = job.loads().expect("right");
    assert_eq!(loads[0].name, "w1");
    assert_eq!((loads[0].block, loads[0].sequential), (4096, false));
}

#[test]
fn a_load_for_every_depth() {
    let text = SMALLEST.replace(
        "kind = \"write\"",
        "kind = \"mixed\"\nblock = \"64KiB\"\ndepth = [1, 16]",
    );
    let loads = Job::parse(&text).expect("right").loads().expect("right");
    let names: Vec<_> = loads.iter().map(|load| load.name.as_str()).collect();
    assert_eq!(names, ["64km1", "64km16"]);
    assert_eq!(loads[0].reads, 70);
    let large = SMALLEST.replace("\"write\"", "\"read\"\nblock = \"1MiB\"");
    let loads = Job::parse(&large).expect("right").loads().expect("right");
    assert_eq!(
        (loads[0].name.as_str(), loads[0].sequential),
        ("1mr1", true)
    );
    let sequential = SMALLEST.replace("\"write\"", "\"write\"\nsequential = true");
    let loads = Job::parse(&sequential)
        .expect("right")
        .loads()
        .expect("right");
    assert_eq!(loads[0].name, "4ksw1");
}

#[test]
fn an_unknown_field_is_named_with_its_line() {
    let said = refused(&SMALLEST.replace("kind", "dpeth = 1\nkind"));
    assert!(said.contains("dpeth") && said.contains("line 5"), "{said}");
    assert!(
        said.contains("expected one of") && said.contains("depth"),
        "{said}"
    );
    assert!(refused(&format!("{SMALLEST}[runs]\n")).contains("runs"));
    assert!(refused(&SMALLEST.replace("file", "flie")).contains("flie"));
}

#[test]
fn what_cannot_be_is_refused() {
    let with = |from: &str, to: &str| refused(&SMALLEST.replace(from, to));
    assert!(with("file = \"x\"", "").contains("exactly one"));
    assert!(with("file = \"x\"", "file = \"x\"\nnbd = \"nbd://h/\"").contains("2 places"));
    assert!(with("file = \"x\"", "nbd = \"http://h/\"").contains("nbd+unix"));
    assert!(with("\"a\"", "\"a-b\"").contains("no name"));
    assert!(with("\"x\"", "\"x\"\nsize = \"5000B\"").contains("multiple"));
    assert!(with("\"write\"", "\"write\"\nblock = \"5KiB\"").contains("multiple"));
    assert!(with("\"write\"", "\"write\"\ndepth = 0").contains("1 to 1024"));
    assert!(with("\"write\"", "\"write\"\nreads = 50").contains("mixed"));
    assert!(with("\"write\"", "\"log\"\ndepth = 4").contains("depth 1"));
    assert!(with("\"write\"", "\"log\"\nsequential = false").contains("sequential"));
    assert!(with("\"write\"", "\"wriet\"").contains("wriet"));
    let twice = format!("{SMALLEST}[[workload]]\nkind = \"write\"\n");
    assert!(refused(&twice).contains("the same"));
    let same = format!("[[target]]\nname = \"a\"\nfile = \"y\"\n{SMALLEST}");
    assert!(refused(&same).contains("two targets"));
    assert!(refused("").contains("[[target]]"));
    assert!(refused("[[target]]\nname = \"a\"\nfile = \"x\"\n").contains("[[workload]]"));
}

#[test]
fn exports_are_named_as_other_tools_name_them() {
    let is = |uri: &str, export: Export| assert_eq!(Export::parse(uri).expect(uri), export);
    is(
        "nbd+unix:///pg?socket=/run/pg.sock",
        Export::Unix("/run/pg.sock".into(), "pg".into()),
    );
    is(
        "nbd://storage/vol",
        Export::Tcp("storage:10809".into(), "vol".into()),
    );
    is(
        "nbd://10.0.0.1:7000",
        Export::Tcp("10.0.0.1:7000".into(), String::new()),
    );
    for bad in [
        "nbd:///x",
        "nbd+unix:///x",
        "nbd+unix:///x?socket=",
        "/dev/sda",
    ] {
        assert!(Export::parse(bad).is_err(), "{bad}");
    }
}
