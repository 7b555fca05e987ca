use diesel_deferred::deferred_task;

struct Template {
    text: String,
}

#[deferred_task]
fn render(user_id: i32, template: &Template) {
    println!("{user_id} {}", template.text);
}

fn main() {}
