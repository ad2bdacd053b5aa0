"""Who the demo's people are and what they said: the crew of a harbour festival, on the day before it opens."""

from __future__ import annotations

from typing import Final

#: Username → first name. The first two can log in (the password is the username); the others only wrote.
PEOPLE: Final = {"ana": "Ana", "bo": "Bo", "ines": "Ines", "chidi": "Chidi", "farah": "Farah", "dara": "Dara"}
LOGINS: Final = ("ana", "bo")
OPERATOR: Final = "admin"

PICTURE_ID: Final = "demo-harbour"
PICTURE_NAME: Final = "harbour.png"

#: slug → name, topic, kind, members with their roles. In public rooms everybody may write.
ROOMS: Final = {
    "lobby": (
        "lobby",
        "Everybody on the quay. Gates open at 16:00.",
        "public",
        {"ines": "owner", "ana": "moderator", "bo": "member", "chidi": "member", "farah": "member", "dara": "member"},
    ),
    "stage-crew": (
        "stage-crew",
        "Main stage, load-in to load-out.",
        "public",
        {"ana": "owner", "bo": "member", "chidi": "member", "farah": "member"},
    ),
    "night-shift": (
        "night-shift",
        "Keys, generators and who stays awake.",
        "private",
        {"ines": "owner", "ana": "member", "dara": "member"},
    ),
}

#: Two people → what they said to each other, as in SAID.
DIRECT: Final = {
    ("ana", "bo"): (
        ("bo", "Do you have a minute before the sound check?"),
        ("ana", "Two, even. What is it?"),
        ("bo", "The fryers want a third phase. I said no, but they will ask you next."),
        ("ana", "Thanks for the warning. I say no as well, then."),
    ),
    ("ana", "ines"): (
        ("ines", "Will you do the welcome on stage at four? My voice is gone."),
        ("ana", "Gladly. Send me the names."),
    ),
}

#: slug → (author, text). The place in the list is the message's id, so add only at the end.
SAID: Final = {
    "lobby": (
        (
            "ines",
            "Morning all. One room for everybody on the quay, crews have their own. Please read back before asking.",
        ),
        ("ines", "Gates open at 16:00, sound check from 13:30. The running order is https://harbourdays.example/order"),
        ("chidi", "Morning. First truck is through the north gate."),
        ("bo", "Good morning! Coffee stands next to the ferry office, bring your own cup."),
        ("farah", "Wind is 18 km/h, gusts 24. Our limit for the canopy is 40."),
        ("ana", "Thanks Farah. Who watches the mast today?"),
        ("farah", "Me until 14:00, then Dara."),
        ("dara", "Confirmed. I have the dashboard open on the tablet."),
        ("chidi", "Second truck waits for a badge. Plate ends 4KX."),
        ("ines", "Badge 31 is his. Gate has the list."),
        ("chidi", "Gate’s list stops at 30."),
        ("bo", "Sending them the new one."),
        ("bo", "Done. They should have 31 to 48 now."),
        ("chidi", "He’s through. Parked behind the ferry office."),
        ("ines", "Please not behind the ferry office, the ferry needs that lane at 11:20."),
        ("chidi", "Moving him to bay 3."),
        ("chidi", "Bay 3 it is. Unloading now, two of us."),
        ("ana", "I can send one more from stage when the risers are up."),
        ("chidi", "That would help, the desk is heavier than it looks."),
        ("ana", "Twenty minutes."),
        ("farah", "Canopy is going up now. Please keep the area under it clear."),
        ("bo", "Area is taped off."),
        ("farah", "Canopy is up. Checked all eight anchors."),
        ("ines", "Lovely. Photo for the morning post, anyone?"),
        ("dara", "I took one from the lighthouse, it is in the shared folder."),
        ("ines", "Perfect, thank you."),
        ("bo", "Power at the food row: two of six distribution boxes tripped when the fryers started."),
        ("ana", "Same phase again?"),
        ("bo", "Same phase. Moving three stalls to the other one."),
        ("bo", "Stable now at 71 %."),
        ("ana", "Good. I write it into the book so nobody moves them back."),
        ("chidi", "Desk is on stage. Nobody’s back was harmed."),
        ("ana", "Heroes. There is cake at stage left."),
        ("farah", "Gusts 31 now. Still fine, but I look every five minutes."),
        ("ines", "If it goes over 40, who decides?"),
        ("farah", "I do, then I say it here first and on the radio second."),
        ("ines", "Good, same as last year."),
        ("dara", "First aid is set up by the fountain. Two people until 18:00, four after."),
        ("dara", "Defibrillators: fountain, main stage left, ferry office."),
        ("bo", "Lost and found has a very sad blue elephant."),
        ("ines", "Its owner is four and already crying at gate south. Sending a parent."),
        ("bo", "Reunited. Everybody is happy, the elephant too."),
        ("ana", "Sound check moved to 13:45, the bass amp came without its cable."),
        ("chidi", "There is a spare in the blue case."),
        ("ana", "It was not in the blue case."),
        ("chidi", "The other blue case."),
        ("ana", "Found it. 13:30 then, as planned."),
        ("ines", "I love this team."),
        ("farah", "Gusts back to 27. Front is through."),
        ("dara", "I take over the mast now. Thanks Farah."),
        ("farah", "Off for lunch. Radio 4 if you need me."),
        ("bo", "Ferry comes in at 15:10 instead of 15:25, about 200 people."),
        ("ines", "Then gate north opens its second lane at 15:00."),
        ("chidi", "Two people for the second lane, please."),
        ("bo", "Me and one from the food row."),
        ("ines", "Lane two is staffed, then. Counting starts with the first visitor."),
        ("dara", "Mast says 21, gusts 26. Sun until the evening."),
        ("ana", "Stage is ready. Lights at 15:30, house music from 15:45."),
        ("ines", "Ten minutes of quiet before it starts. Drink some water, everybody."),
        ("bo", "And whoever borrowed my spare radio: channel 6, no questions asked."),
        ("chidi", "It was me. Bringing it."),
    ),
    "stage-crew": (
        ("ana", "Load-in from 07:00, west ramp only."),
        ("chidi", "Risers first or desk first?"),
        ("ana", "Risers, then the desk, then backline."),
        ("bo", "Rigging sheet v3 is the one that counts."),
        ("ana", "Signed, it’s in the folder."),
        ("farah", "Canopy limits are on page 2. Please read them once."),
        ("ana", "Load-out starts when the last act is off, not before."),
    ),
    "night-shift": (
        ("ines", "Keys for the generator shed hang in the ferry office, second hook."),
        ("dara", "I take 22:00 to 02:00."),
        ("ana", "02:00 to 06:00 is mine."),
        ("ines", "Thank you both. Tea is in the tower."),
    ),
}

#: What happened in the lobby after that: (who, event, data). `of` and `thread` name what they are about: a number is a
#: message of SAID, "#3" the third line here. "" is the server, on behalf of a moderator.
HAPPENED: Final[tuple[tuple[str, str, dict[str, object]], ...]] = (
    ("dara", "message", {"text": "The harbour this morning, from the lighthouse.", "files": [PICTURE_ID]}),
    ("ines", "message", {"text": "That goes on the front page.", "thread": "#1"}),
    ("bo", "message", {"text": "If you know where to look, you can see the coffee stand.", "thread": "#1"}),
    ("farah", "react", {"of": "#1", "emoji": "❤️", "on": True}),
    ("ana", "react", {"of": "#1", "emoji": "❤️", "on": True}),
    ("chidi", "react", {"of": "#1", "emoji": "🎉", "on": True}),
    ("chidi", "message", {"text": "Gates open at 15:30, everybody."}),
    ("chidi", "edit", {"of": "#7", "text": "Gates open at 16:00, everybody."}),
    ("bo", "react", {"of": 33, "emoji": "🎂", "on": True}),
    ("bo", "message", {"text": "Selling two radios, cheap, almost new."}),
    ("", "delete", {"of": "#10", "by": "ana"}),
    ("ines", "message", {"text": "@ana @bo One hour to go. All good at your end?", "mentions": ["ana", "bo"]}),
    ("bo", "message", {"text": "All good at the food row.", "thread": "#12", "also": True}),
    ("ana", "react", {"of": "#12", "emoji": "👍", "on": True}),
)
