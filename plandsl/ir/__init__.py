"""The intermediate representation: types, operations, programs, schedules, and their textual form."""
