-- In which currencies money was booked under an account; amounts of several are not added under one budget.

CREATE TABLE currencies (
    account text NOT NULL,
    currency text NOT NULL,
    PRIMARY KEY (account, currency)
);
